"""Makes reports: HTML, CSV, SVG and text, from the contents of a run directory."""
