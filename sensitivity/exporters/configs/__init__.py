"""Writers of a plan as other tools' own settings, one module per tool."""
