"""What a figure is measured on: the machine, its fastest number type, processes of their own."""
