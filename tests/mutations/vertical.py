"""Faults of vertical learning that its tests must notice."""

MUTATIONS: list[tuple[str, str, str, str]] = [
    (  # any claimed cost is believed
        "fedguard/vertical/opus.py",
        'return claimed if self.cost_claims == "believed" else min(claimed, max(self.cost_ratios))',
        "return claimed",
        "tests/vertical/test_opus.py",
    ),
    (
        "fedguard/vertical/terms.py",
        "return 2.0 * self.clip",
        "return self.clip",
        "tests/vertical/test_party.py tests/vertical/test_vfl_account.py",
    ),
    (
        "fedguard/vertical/parties.py",
        'stream = generator(self.seed, server_round, self.index, f"vertical-noise/{purpose}")',
        'stream = generator(self.seed, server_round, 0, f"vertical-noise/{purpose}")',
        "tests/vertical/test_party.py",
    ),
    (
        "fedguard/vertical/parties.py",
        'return self._noise(server_round, "train", shape)',
        'return self._noise(1, "train", shape)',
        "tests/vertical/test_party.py",
    ),
    (
        "fedguard/vertical/parties.py",
        "return h if self.terms.privacy is None else clip_rows(h, self.terms.privacy.clip)\n\n"
        "    def with_perturbed",
        "return h\n\n    def with_perturbed",
        "tests/vertical/test_party.py",
    ),
    (
        "fedguard/vertical/parties.py",
        "self.epsilon = min(max(moved, privacy.epsilon_min), privacy.epsilon_max)",
        "self.epsilon = max(moved, privacy.epsilon_min)",
        "tests/vertical/test_party.py",
    ),
    (
        "fedguard/vertical/parties.py",
        "loss_slope=spread * along_noise / self.sigma,",
        "loss_slope=spread * along_noise,",
        "tests/vertical/test_party.py",
    ),
    (
        "fedguard/vertical/parties.py",
        "for p, old in zip(self.parameters, before, strict=True):\n            p.copy_(old)\n"
        "        return h",
        "return h",
        "tests/vertical/test_party.py",
    ),
    (
        "fedguard/vertical/parties.py",
        "        self.optimiser.state.clear()\n",
        "",
        "tests/vertical/test_exchange.py",
    ),
    (
        "fedguard/vertical/label_holder.py",
        "if not (math.isfinite(loss) and self._finite(back)):",
        "if not math.isfinite(loss):",
        "tests/vertical/test_label_holder.py",
    ),
    (
        "fedguard/vertical/exchange.py",
        "if party not in contents or party in answers:",
        "if party not in contents:",
        "tests/vertical/test_exchange.py",
    ),
    (
        "fedguard/vertical/exchange.py",
        "reasons = [fault_of(tensors.get(name), rows, width) for name in names]",
        'reasons = [fault_of(tensors.get("embedding"), rows, width) for name in names]',
        "tests/vertical/test_exchange.py",
    ),
    (
        "fedguard/vertical/exchange.py",
        "if not claim.epsilon > 0.0:",
        "if claim.epsilon <= 0.0:",
        "tests/vertical/test_exchange.py",
    ),
    (
        "fedguard/vertical/vfl.py",
        "self.precisions[party] = self.precisions.get(party, 0.0) + multiplier**-2",
        "self.precisions[party] = max(self.precisions.get(party, 0.0), multiplier**-2)",
        "tests/vertical/test_vfl_account.py",
    ),
    (
        "fedguard/vertical/vfl.py",
        "        self._drop_claims(found)\n",
        "",
        "tests/vertical/test_vfl_account.py tests/vertical/test_opus.py",
    ),
    (
        "fedguard/vertical/shapley.py",
        "weight = 1.0 / (n * comb(n - 1, size))",
        "weight = 1.0 / (n * comb(n, size))",
        "tests/vertical/test_game_values.py",
    ),
    (
        "fedguard/vertical/auctions.py",
        "for size in range(1, len(players) + 1):",
        "for size in range(1, len(players)):",
        "tests/vertical/test_auctions.py",
    ),
    (
        "fedguard/vertical/noisy_sparse.py",
        "noisy = gradient * rows + noise.to(gradient.device)",
        "noisy = gradient + noise.to(gradient.device)",
        "tests/vertical/test_noisy_sparse.py",
    ),
    (
        "fedguard/vertical/zeroth_order.py",
        'party: holder.loss_of({**plain, party: one["perturbed"]}, ids) - before',
        'party: before - holder.loss_of({**plain, party: one["perturbed"]}, ids)',
        "tests/vertical/test_zeroth_order.py",
    ),
    (
        "fedguard/vertical/opus.py",
        "if chdtr(freedom, energy / sigma**2) < _FALSE_ALARM:",
        "if chdtr(freedom, energy / sigma) < _FALSE_ALARM:",
        "tests/vertical/test_opus.py",
    ),
    (
        "fedguard/vertical/opus.py",
        "if server_round < self.warmup:",
        "if server_round <= self.warmup:",
        "tests/vertical/test_opus.py",
    ),
    (
        "fedguard/vertical/attacks/backdoor.py",
        "is_target = y_train[order] == self.target_class",
        "is_target = y_train[order] != self.target_class",
        "tests/vertical/test_attack_rules.py",
    ),
    (
        "fedguard/vertical/attacks/completion.py",
        'party.memory[f"gradient-{place}"] = now',
        'party.memory[f"gradient-{place}"] = parameter.grad',
        "tests/vertical/test_attack_rules.py",
    ),
    (
        "fedguard/vertical/models.py",
        "slope *= kept.sign_()  # of a ReLU's output: 0 or 1",
        "pass",
        "tests/vertical/test_models.py",
    ),
]
