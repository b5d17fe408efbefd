"""``python -m fedguard.encryption.attacks``: every attack, naive and guarded."""

from __future__ import annotations

from fedguard.encryption.attacks import ATTACKS


def main() -> None:
    """Run and print all attacks."""
    for attack in ATTACKS.values():
        for guarded in (False, True):
            print(attack(guarded).line)


if __name__ == "__main__":
    main()
