"""Side-by-side measurements of proxies: starts them, drives them, reads what they cost.

Standard library only. Everything listens on and talks to 127.0.0.0/8.
"""
