"""What is fitted: tables, the encoder, model families, selection, the pipeline and the deployed prediction path (floor 1)."""
