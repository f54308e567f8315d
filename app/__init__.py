"""RPiAE Studio: the browser app.

`service`, `request`, `jobs` and `store` know nothing of Gradio and can be used from any program;
`edit`, `generate`, `compare`, `widgets` and `studio` lay out the page and wire it to them.
"""
