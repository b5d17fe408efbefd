"""Enrolment: who admits clients' replies before a strategy sees them."""
