//! The file system: users, directories and files as rows, procedures in `sql/`, and a thin client.
