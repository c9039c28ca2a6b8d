"""The commands of `cdrstream`, by what they are for; `ops.cli` says which there are."""
