"""A server under any bytes: requests that are bent, broken, cut, split and mixed up.

An attack is made from a seed and a number alone, and from the state of the upload that it is
aimed at. Beside the attacks there is a model: what each upload must hold, whatever was sent.
"""
