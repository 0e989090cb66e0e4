"""One model, trained from one config: `python -m trainer.train FOLDER`.

A run's path: config.json → `config.TrainConfig` → `data.open` (samples) and `model.load` (weights) → the loop in `train.py`:
`step.py`: `model.packing` (batch → packed sequences) → `model.vision_language` (look, read) → `losses` → `optim`; now and then
`evaluate`, now and then `checkpoint` → metrics.jsonl, facts.json, eval/, model/, result.json.
"""
