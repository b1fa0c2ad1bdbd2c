"""Step distillation: a teacher of many evaluations into a student of few. docs/distillation.md is the map."""
