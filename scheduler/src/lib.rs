//! The cluster scheduler: tables `worker` and `task`, procedures in `sql/`, and a thin client.
