"""From a name, a path or an id of the Hub to a `datasets.DatasetDict`, and from there to batches; knows no model."""
