"""Seaway beside its peers and the raw client, in one run on one machine. ``make bench``.

    driver -> one fresh process for each contender and round -> one line of JSON -> table, results/

Owns: what is compared and how it is measured. Not part of the package; ``workload``, ``job``,
``stream``, ``process`` and ``peers`` also run in the peers' virtual environment and import nothing
of Seaway.
"""
