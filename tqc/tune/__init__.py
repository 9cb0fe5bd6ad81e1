"""`tqc tune`: every configuration of a schedule's space built, checked and measured, each result a record."""
