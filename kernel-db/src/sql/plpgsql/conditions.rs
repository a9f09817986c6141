//! Names of error conditions, as RAISE and EXCEPTION WHEN write them.

/// The commoner names of PostgreSQL's Appendix A; others are written as SQLSTATE '...'.
const NAMES: &[(&str, &str)] = &[
    ("active_sql_transaction", "25001"),
    ("assert_failure", "P0004"),
    ("bad_copy_file_format", "22P04"),
    ("cannot_coerce", "42846"),
    ("cardinality_violation", "21000"),
    ("case_not_found", "20000"),
    ("check_violation", "23514"),
    ("data_exception", "22000"),
    ("datetime_field_overflow", "22008"),
    ("deadlock_detected", "40P01"),
    ("division_by_zero", "22012"),
    ("duplicate_column", "42701"),
    ("duplicate_file", "58P02"),
    ("duplicate_object", "42710"),
    ("duplicate_table", "42P07"),
    ("feature_not_supported", "0A000"),
    ("foreign_key_violation", "23503"),
    ("insufficient_privilege", "42501"),
    ("insufficient_resources", "53000"),
    ("integrity_constraint_violation", "23000"),
    ("internal_error", "XX000"),
    ("invalid_datetime_format", "22007"),
    ("invalid_parameter_value", "22023"),
    ("invalid_text_representation", "22P02"),
    ("io_error", "58030"),
    ("lock_not_available", "55P03"),
    ("no_data", "02000"),
    ("no_data_found", "P0002"),
    ("not_null_violation", "23502"),
    ("null_value_not_allowed", "22004"),
    ("numeric_value_out_of_range", "22003"),
    ("object_in_use", "55006"),
    ("object_not_in_prerequisite_state", "55000"),
    ("out_of_memory", "53200"),
    ("plpgsql_error", "P0000"),
    ("program_limit_exceeded", "54000"),
    ("query_canceled", "57014"),
    ("raise_exception", "P0001"),
    ("read_only_sql_transaction", "25006"),
    ("serialization_failure", "40001"),
    ("string_data_right_truncation", "22001"),
    ("syntax_error", "42601"),
    ("system_error", "58000"),
    ("too_many_connections", "53300"),
    ("too_many_rows", "P0003"),
    ("undefined_column", "42703"),
    ("undefined_file", "58P01"),
    ("undefined_function", "42883"),
    ("undefined_object", "42704"),
    ("undefined_table", "42P01"),
    ("unique_violation", "23505"),
    ("wrong_object_type", "42809"),
];

/// The SQLSTATE of a condition's name.
pub fn state(name: &str) -> Option<&'static str> {
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, s)| *s)
}

/// True for five digits and capital letters.
pub fn is_state(text: &str) -> bool {
    text.len() == 5
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}
