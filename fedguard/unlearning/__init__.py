"""Machine unlearning in a live federation: SoUL and the methods it is compared with."""
