"""What is remembered of a study.

records.py: the facts as values -> store.py: every question asked of the database, one method each -> schema.py: the tables.
migrations/ takes an older database to today's schema.
"""
