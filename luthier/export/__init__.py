"""Room `export`: models in the formats that others run, each with the code to run it and a certificate."""
