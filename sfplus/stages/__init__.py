"""The stages for faces: each reads artefacts, writes one artefact and knows no other stage.

A stage is a module with a function `build(job)`, and `share(job)` where other processes can help. It is declared beside
its settings, in `sfplus.recipes.settings`.
"""
