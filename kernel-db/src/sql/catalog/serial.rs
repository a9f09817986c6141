//! How catalogue parts are written: shared pointers as their contents, types by name.

/// A map of shared values.
pub mod arc_map {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(
        map: &BTreeMap<String, Arc<T>>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_map(map.iter().map(|(k, v)| (k, &**v)))
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<BTreeMap<String, Arc<T>>, D::Error> {
        let map = BTreeMap::<String, T>::deserialize(d)?;
        Ok(map.into_iter().map(|(k, v)| (k, Arc::new(v))).collect())
    }
}

/// A map of lists of shared values.
pub mod arc_lists {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(
        map: &BTreeMap<String, Vec<Arc<T>>>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_map(
            map.iter()
                .map(|(k, v)| (k, v.iter().map(|x| &**x).collect::<Vec<_>>())),
        )
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<BTreeMap<String, Vec<Arc<T>>>, D::Error> {
        let map = BTreeMap::<String, Vec<T>>::deserialize(d)?;
        Ok(map
            .into_iter()
            .map(|(k, v)| (k, v.into_iter().map(Arc::new).collect()))
            .collect())
    }
}

/// A type, by its short name.
pub mod data_type {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::sql::DataType;

    const NAMES: [(DataType, &str); 24] = [
        (DataType::Bool, "bool"),
        (DataType::Int2, "int2"),
        (DataType::Int4, "int4"),
        (DataType::Int8, "int8"),
        (DataType::Float8, "float8"),
        (DataType::Text, "text"),
        (DataType::Varchar, "varchar"),
        (DataType::Bytea, "bytea"),
        (DataType::Timestamptz, "timestamptz"),
        (DataType::Uuid, "uuid"),
        (DataType::Numeric, "numeric"),
        (DataType::Interval, "interval"),
        (DataType::Unknown, "unknown"),
        (DataType::Void, "void"),
        (DataType::Record, "record"),
        (DataType::BoolArray, "_bool"),
        (DataType::Int2Array, "_int2"),
        (DataType::Int4Array, "_int4"),
        (DataType::Int8Array, "_int8"),
        (DataType::Float8Array, "_float8"),
        (DataType::TextArray, "_text"),
        (DataType::VarcharArray, "_varchar"),
        (DataType::TimestamptzArray, "_timestamptz"),
        (DataType::UuidArray, "_uuid"),
    ];

    pub fn serialize<S: Serializer>(value: &DataType, s: S) -> Result<S::Ok, S::Error> {
        let name = NAMES
            .iter()
            .find(|(t, _)| t == value)
            .map_or("unknown", |(_, n)| *n);
        s.serialize_str(name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<DataType, D::Error> {
        let name = String::deserialize(d)?;
        let found = NAMES.iter().find(|(_, n)| *n == name);
        found
            .map(|(t, _)| *t)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown type {name}")))
    }
}
