"""Small recipes for images; IMAGES is the place of a data set."""

CLASSIFY = """# A classifier for tests.
classify:
  data: {name: folder, root: IMAGES, pad: 0}
  network: cnn6
  width: 4
  energy: {mode: mhe}
  batch_size: 4
  base_lr: 0.01
  steps: []
  max_iter: 3
  log_every: 1
  test_every: 1
"""
GENERATE = """generate:
  data: {name: folder, root: IMAGES}
  width: 0.03125
  batch_size: 4
  max_iter: 2
  log_every: 1
  sample_every: 2
  scores: {samples: 8, splits: 2}
"""
REPORT = """report:
  title: Dark and light
  published:
    - {name: theirs, accuracy: 99, source: a paper}
    - {name: theirs, inception_score: 7.4, source: a README}
"""
