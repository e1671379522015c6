"""A plan as other tools' own settings: one module for each tool."""
