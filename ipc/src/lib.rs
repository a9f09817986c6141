//! Messages: a table partitioned by receiver, procedures in `sql/`, and a thin client.
