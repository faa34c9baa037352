# -*- coding: latin-1 -*-
print(ascii("é"), __file__)
raise ValueError("é")
