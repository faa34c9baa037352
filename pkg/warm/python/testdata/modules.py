import sys
base=list(sys.modules)
def new():
    global base
    print([n for n in sys.modules if n not in base]); base=list(sys.modules)
import xml; print('etree' in dir(xml)); new()
import xml.etree.ElementTree; print('etree' in dir(xml), 'dom' in dir(xml)); new()
import json; new()
import importlib; importlib.import_module('argparse'); new()
import email.message, asyncio; new()
import logging, atexit, concurrent.futures; new()
import logging.config; new()
import importlib.util; print(importlib.util.find_spec('decimal').origin, 'decimal' in sys.modules); new()
import decimal; new(); d=decimal.Decimal; importlib.reload(decimal); print(d is decimal.Decimal); new()
del sys.modules['decimal']; import decimal as e; print(e is decimal)
import sqlite3.dbapi2, xml.dom.minidom; new()
