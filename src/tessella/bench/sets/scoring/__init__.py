"""The metrics of the public sets, one file each: pure functions of answers and truths."""
