"""Studies of retraining (``seqdsd retrain``): arms from the same parents, tested one by one and across parents."""
