"""The stages that the recipes of `mini` run."""
