"""Numbers with signatures. Everything here takes tensors and knows no system and no corpus."""
