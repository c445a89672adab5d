def confidence_intervals(o):
    return {f"{k}_ci95": [float(v[0]), float(v[0])] for k, v in o.metrics().items()}
