"""Faults in repairs, in the RNP alarm and in what they share, and who notices them."""

from __future__ import annotations

_CHANNELS = "tests/models/test_channels.py"
_PASSES = "tests/repairs/test_rows_and_passes.py"
_RNP = "tests/repairs/test_rnp.py"
_OTHERS = "tests/repairs/test_nad_and_others.py"
_TENDING = "tests/runs/test_tending.py"
_ABL = "tests/training/test_abl.py"
_ENCODER = "tests/models/test_encoder_head.py"
_T_CORE = "tests/training/test_t_core.py"
_POISONED = "tests/runs/test_poisoned_clients.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/models/channels.py",
        "normalised and scale.shape == weight.shape[:1]",
        "normalised and scale.shape != weight.shape[:1]",
        _CHANNELS,
    ),
    (
        "fedguard/training/attention.py",
        "            found[name] = output.clone()",
        "            found[name] = output",
        _CHANNELS,
    ),
    (
        "fedguard/repairs/toolkit/passes.py",
        '    padded = functional.pad(x, (most,) * 4, mode="replicate")',
        "    padded = functional.pad(x, (most,) * 4)",
        _PASSES,
    ),
    (
        "fedguard/repairs/toolkit/passes.py",
        "        model.load_state_dict(before)",
        "        pass",
        _PASSES,
    ),
    (
        "fedguard/strategies/toolkit/forgetting.py",
        "    torch.autograd.backward(-tools.task.losses(output, y).mean())",
        "    torch.autograd.backward(tools.task.losses(output, y).mean())",
        _RNP,
    ),
    (
        "fedguard/repairs/rnp.py",
        "mask.sub_(how.lr * step).clamp_(0.0, 1.0)",
        "mask.sub_(how.lr * step)",
        _RNP,
    ),
    (
        "fedguard/repairs/rnp.py",
        "            if count > self.most * total:\n                break\n",
        "",
        _RNP,
    ),
    (
        "fedguard/repairs/toolkit/held_masks.py",
        "            self.kept[unit.layer] = open_now & ~gone[unit.layer].cpu()",
        "            self.kept[unit.layer] = ~gone[unit.layer].cpu()",
        _RNP,
    ),
    (
        "fedguard/training/attention.py",
        "    maps = features.square().sum(dim=1) if features.dim() == 4 else features.square()",
        "    maps = features.abs().sum(dim=1) if features.dim() == 4 else features.square()",
        _OTHERS,
    ),
    (
        "fedguard/repairs/nad.py",
        "            if told > best:",
        "            if told < best or best < 0:",
        _OTHERS,
    ),
    (
        "fedguard/repairs/super_finetune.py",
        "        if moved > longest:",
        "        if moved < longest:",
        _OTHERS,
    ),
    (
        "fedguard/repairs/fine_pruning.py",
        "            if score(held, held.model) < before - self.tolerance:",
        "            if score(held, held.model) < 0.0:",
        _OTHERS,
    ),
    (
        "fedguard/runs/tending.py",
        "            return self._mended() if self.repair.hold(self.scene.tools) else None",
        "            return None",
        _TENDING,
    ),
    (
        "fedguard/runs/horizontal.py",
        "            self.repair.load_state(checkpoint.repair_state)\n",
        "            pass\n",
        _TENDING,
    ),
    (
        "fedguard/training/abl.py",
        "            return torch.sign(mean.detach() - self.gamma) * mean",
        "            return mean",
        _ABL,
    ),
    (
        "fedguard/training/abl.py",
        "        lowest = losses.argsort(stable=True)[:count].sort().values.cpu()",
        "        lowest = losses.argsort(stable=True)[-count:].sort().values.cpu()",
        _ABL,
    ),
    (
        "fedguard/training/abl.py",
        "            local.vector.copy_(before)\n",
        "",
        _ABL,
    ),
    (
        "fedguard/training/attention.py",
        "attention(features.detach())",
        "attention(features)",
        "tests/training/test_fed_nad.py",
    ),
    (
        "fedguard/clients/federation.py",
        "    honest = [client for client in range(num_clients) if client not in malicious]",
        "    honest = list(range(num_clients))",
        _POISONED,
    ),
    (
        "fedguard/runs/records.py",
        '            record["poisoned"] = record["client"] in poisoned',
        '            record["poisoned"] = record["client"] in malicious',
        _POISONED,
    ),
    (  # what everybody moves far is suspected as well
        "fedguard/repairs/btu.py",
        "(far & rare).nonzero()",
        "far.nonzero()",
        "tests/repairs/test_btu.py",
    ),
    (  # tokens are marked at once
        "fedguard/repairs/btu.py",
        "(self._votes >= self.rounds)",
        "(self._votes >= 1)",
        "tests/repairs/test_btu.py",
    ),
    (  # a cut is not kept up
        "fedguard/repairs/btu.py",
        "        self._cut(tools)\n        return True",
        "        return True",
        "tests/repairs/test_btu.py",
    ),
    (  # every dimension of a marked token is cut at a client
        "fedguard/training/btu.py",
        "far = (own - before[tokens]).abs().double() > limit",
        "far = torch.ones_like(own, dtype=torch.bool)",
        "tests/repairs/test_btu.py",
    ),
    (  # special tokens may be marked
        "fedguard/training/btu.py",
        "norms[:special] = -1.0",
        "norms[:0] = -1.0",
        "tests/repairs/test_btu.py",
    ),
    (
        "fedguard/training/encoder.py",
        "norm.bias - norm.running_mean * slope",
        "norm.bias",
        _ENCODER,
    ),
    (
        "fedguard/training/encoder.py",
        'if name.endswith("running_var") and bool((found < 0).any()):',
        "if False:",
        _ENCODER,
    ),
    (
        "fedguard/models/encoder_head.py",
        "        if found.planes != planes:",
        "        if found.planes < 0:",
        _ENCODER,
    ),
    (
        "fedguard/training/sifting.py",
        "        inside &= in_largest_cluster(distances, float(last.median()))\n",
        "",
        _T_CORE,
    ),
    (
        "fedguard/training/sifting.py",
        "    distances.fill_diagonal_(torch.inf)\n",
        "",
        _T_CORE,
    ),
    (
        "fedguard/training/sifting.py",
        "    return torch.stack(shares).amin(dim=0)",
        "    return -torch.stack(shares).amin(dim=0)",
        _T_CORE,
    ),
    (
        "fedguard/training/t_core.py",
        "rows & hits & (losses.double() <= limit)",
        "rows & (losses.double() <= limit)",
        _T_CORE,
    ),
    (
        "fedguard/training/t_core.py",
        "        grown = pool | admitted.cpu()",
        "        grown = admitted.cpu()",
        _T_CORE,
    ),
    (
        "fedguard/training/t_core.py",
        "return (losses * inside).sum() / inside.sum().clamp_min(1)",
        "return losses.mean()",
        _T_CORE,
    ),
    (
        "fedguard/training/reopening.py",
        "flat[order] = every[order] < below",
        "flat[order] = True",
        _T_CORE,
    ),
    (  # an unsure label prunes too
        "fedguard/repairs/rnp.py",
        "        if found.confidence < self.confidence:",
        "        if False:",
        _RNP,
    ),
    (  # whatever it costs
        "fedguard/repairs/rnp.py",
        "            if found >= before - self.tolerance:",
        "            if True:",
        _RNP,
    ),
    (  # masks of the model itself, not of the one that forgot
        "fedguard/repairs/rnp.py",
        "        masks = recover(found.model, units, own, self.recovery, rng)",
        "        masks = recover(tools.model, units, own, self.recovery, rng)",
        _RNP,
    ),
    (  # the threshold is judged on the rows that masks were learnt on
        "fedguard/repairs/rnp.py",
        "        own, held = split_rows(tools, 0.2, rng)",
        "        own = held = tools",
        _RNP,
    ),
    (
        "fedguard/repairs/rnp.py",
        "after_step=lambda: self.hold(tools)",
        "after_step=lambda: None",
        _RNP,
    ),
    (  # a repair that refuses lets trained channels through
        "fedguard/repairs/rnp.py",
        "        self.keep_shut(tools)\n        own,",
        "        own,",
        _RNP,
    ),
    (
        "fedguard/strategies/toolkit/forgetting.py",
        "        torch.nn.utils.clip_grad_norm_(model.parameters(), how.clip)",
        "        pass",
        _RNP,
    ),
    (
        "fedguard/audits/rnp_alarm.py",
        "found.confidence >= self.at_least",
        "found.confidence >= 0.0",
        _RNP,
    ),
    (  # the alarm does not decide
        "fedguard/runs/tending.py",
        "alarmed = self.times.alarm and self._alarmed(current, vector)",
        "alarmed = self.times.alarm",
        _TENDING,
    ),
    (  # the teacher is no better than its student
        "fedguard/repairs/nad.py",
        "        train_on_rows(own, teacher, how, rng)\n",
        "",
        _OTHERS,
    ),
    (
        "fedguard/repairs/nad.py",
        "return beta * attention_gap(seen, shown)",
        "return 0.0 * attention_gap(seen, shown)",
        _OTHERS,
    ),
    (
        "fedguard/repairs/nad.py",
        "        tools.model.load_state_dict(state)\n",
        "",
        _OTHERS,
    ),
    (  # the gate: two rounds need not agree
        "fedguard/training/abl.py",
        "both >= self.overlap * either and ",
        "",
        _ABL,
    ),
    (  # the gate: any labels
        "fedguard/training/abl.py",
        " and int(labels.max()) >= self.purity * len(now)",
        "",
        _ABL,
    ),
    (  # isolated rows are learnt on
        "fedguard/training/abl.py",
        "        return (losses * kept).sum() / kept.sum().clamp_min(1)",
        "        return losses.mean()",
        _ABL,
    ),
    (
        "fedguard/training/abl.py",
        "        classes = self._climb(local, x, y)",
        "        classes = 2",
        _ABL,
    ),
    (
        "fedguard/training/abl.py",
        "< 1.0 / classes:",
        "< 0.0:",
        _ABL,
    ),
    (
        "fedguard/training/abl.py",
        ">= 2.0 * self.gamma",
        ">= 0.0",
        _ABL,
    ),
    (
        "fedguard/training/t_core.py",
        "        if seen < self.warmup:",
        "        if False:",
        _T_CORE,
    ),
    (
        "fedguard/training/t_core.py",
        "        if self.mask and bool(seed.any()):",
        "        if False:",
        _T_CORE,
    ),
    (
        "fedguard/training/t_core.py",
        "torch.tensor([-1.0 if closed else done + 1.0])",
        "torch.tensor([done + 1.0])",
        _T_CORE,
    ),
    (
        "fedguard/training/reopening.py",
        "            torch.autograd.backward(-functional.cross_entropy(output, y[rows]))",
        "            torch.autograd.backward(functional.cross_entropy(output, y[rows]))",
        _T_CORE,
    ),
    (
        "fedguard/training/fed_nad.py",
        "        self._teach(teacher, local)\n",
        "",
        "tests/training/test_fed_nad.py",
    ),
    (  # the whole network's exposure is not heard
        "fedguard/training/btu.py",
        "marked={*first, *second, *third}",
        "marked={*first, *second}",
        "tests/repairs/test_btu.py",
    ),
    (  # nor the second, without the tokens of the first
        "fedguard/training/btu.py",
        "second = self._exposed(local, name, start, without=first)",
        "second = self._exposed(local, name, start, without=())",
        "tests/repairs/test_btu.py",
    ),
    (
        "fedguard/training/btu.py",
        '            cut_tokens(table, local.scratch["before"], tokens)',
        "            pass",
        "tests/repairs/test_btu.py",
    ),
]
