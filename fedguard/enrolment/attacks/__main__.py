"""``python -m fedguard.enrolment.attacks``: every attack, its control first."""

from __future__ import annotations

from fedguard.enrolment.attacks import ATTACKS


def main() -> None:
    """Run and print all attacks."""
    for attack in ATTACKS.values():
        for guarded in (False, True):
            print(attack(guarded).line)


if __name__ == "__main__":
    main()
