"""SFT and DPO by trl: what the two phases share."""
