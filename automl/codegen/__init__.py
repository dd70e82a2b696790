"""An artifact as source code: its graph as the steps of one row, written as C or as data for one Python file."""
