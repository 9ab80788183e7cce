"""The stages: each reads artefacts, writes one artefact and knows no other stage."""
