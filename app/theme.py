"""How the page looks: Gradio's plain theme with system fonts, our colours, and the sheets in `static/`."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

STATIC = Path(__file__).resolve().parent / "static"
STYLES = [STATIC / "studio.css", STATIC / "compare.css"]
SCRIPTS = [STATIC / "studio.js", STATIC / "compare.js"]
ICON = STATIC / "icon.svg"

# Every pair of text and ground below has a contrast of at least 4.5:1, in light and in dark.
TEAL = gr.themes.Color(
    name="teal",
    c50="#effaf7",
    c100="#d5f1ea",
    c200="#aee3d7",
    c300="#7ccebe",
    c400="#46b09d",
    c500="#1d8f7d",
    c600="#0f7466",
    c700="#0d5d53",
    c800="#0d4b44",
    c900="#0b3e39",
    c950="#052522",
)


def script() -> str:
    """What the page runs when it opens: each file is a function of its own."""
    calls = ";\n".join(f"({path.read_text(encoding='utf-8').strip()})()" for path in SCRIPTS)
    return f"() => {{\n{calls};\n}}"


def theme() -> gr.themes.Base:
    """Calm, flat, local: no font and no picture is fetched from anywhere."""
    return gr.themes.Base(
        primary_hue=TEAL,
        neutral_hue=gr.themes.colors.stone,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#171614",
        body_text_color="#24211d",
        body_text_color_dark="#eceae6",
        body_text_color_subdued="#645d54",
        body_text_color_subdued_dark="#b3aca2",
        block_background_fill="#ffffff",
        block_background_fill_dark="#201e1b",
        block_border_width="1px",
        block_border_color="#e4dfd8",
        block_border_color_dark="#37332e",
        block_label_text_color="#4d463e",
        block_label_text_color_dark="#d3cdc4",
        block_title_text_weight="600",
        block_info_text_color="#645d54",
        block_info_text_color_dark="#b3aca2",
        input_background_fill="#ffffff",
        input_background_fill_dark="#171614",
        input_border_width="1px",
        input_border_color="#bdb5a9",
        input_border_color_dark="#5a544b",
        input_placeholder_color="#756d63",
        input_placeholder_color_dark="#a0988d",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#efebe5",
        button_secondary_background_fill_dark="#2e2b27",
        button_secondary_text_color="#24211d",
        button_secondary_text_color_dark="#eceae6",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        checkbox_border_color="#8a8175",
        checkbox_border_color_dark="#857d72",
        checkbox_border_color_hover="#645d54",
        checkbox_border_color_hover_dark="#b3aca2",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_600",
        error_text_color="#a3201d",
        error_text_color_dark="#ffb4ab",
    )
