//! Encodes what the client is told.

use bytes::{BufMut, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::{
    FieldDescription, MESSAGE_TYPE_BYTE_DATA_ROW, NoData, ParameterDescription, RowDescription,
};
use pgwire::messages::response::{
    CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::ParameterStatus;

use super::backend::{Column, Notice};
use super::format::{self, Formats};
use crate::error::{Error, Result};
use crate::sql::{DataType, Value};

/// Appends a message. It fails only for a message longer than its length field can say.
pub fn put(out: &mut BytesMut, message: &impl Message) -> Result<()> {
    message
        .encode(out)
        .map_err(|error| Error::internal(format!("cannot encode a reply: {error}")))
}

/// ErrorResponse; `fatal` says that the connection ends with it.
pub fn error(out: &mut BytesMut, error: &Error, fatal: bool) -> Result<()> {
    let severity = if fatal { "FATAL" } else { "ERROR" };
    let mut fields = fields(
        severity,
        error.sqlstate(),
        error.message(),
        error.get_detail(),
        error.get_hint(),
    );
    if let Some(position) = error.position() {
        fields.push((b'P', position.to_string()));
    }
    put(out, &ErrorResponse::new(fields))
}

pub fn notice(out: &mut BytesMut, notice: &Notice) -> Result<()> {
    let detail = notice.detail.as_deref();
    let hint = notice.hint.as_deref();
    let fields = fields(
        &notice.severity,
        &notice.sqlstate,
        &notice.message,
        detail,
        hint,
    );
    put(out, &NoticeResponse::new(fields))
}

fn fields(
    severity: &str,
    sqlstate: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) -> Vec<(u8, String)> {
    // A zero byte would end the field early.
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    let mut fields = vec![
        (b'S', clean(severity)),
        (b'V', clean(severity)),
        (b'C', clean(sqlstate)),
        (b'M', clean(message)),
    ];
    fields.extend(detail.map(|text| (b'D', clean(text))));
    fields.extend(hint.map(|text| (b'H', clean(text))));
    fields
}

pub fn ready(out: &mut BytesMut, status: TransactionStatus) -> Result<()> {
    put(out, &ReadyForQuery::new(status))
}

pub fn complete(out: &mut BytesMut, tag: String) -> Result<()> {
    put(out, &CommandComplete::new(tag))
}

pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) -> Result<()> {
    put(
        out,
        &ParameterStatus::new(name.to_owned(), value.to_owned()),
    )
}

pub fn parameter_description(out: &mut BytesMut, params: &[DataType]) -> Result<()> {
    put(
        out,
        &ParameterDescription::new(params.iter().map(|p| settled(*p).oid()).collect()),
    )
}

pub fn row_description(out: &mut BytesMut, columns: &[Column], formats: &Formats) -> Result<()> {
    let field = |(n, column): (usize, &Column)| {
        let data_type = settled(column.data_type);
        let format = i16::from(formats.binary(n));
        FieldDescription::new(
            column.name.clone(),
            0,
            0,
            data_type.oid(),
            data_type.typlen(),
            -1,
            format,
        )
    };
    put(
        out,
        &RowDescription::new(columns.iter().enumerate().map(field).collect()),
    )
}

/// What Describe says about results: their columns, or that there are none.
pub fn rows(out: &mut BytesMut, columns: Option<&[Column]>, formats: &Formats) -> Result<()> {
    match columns {
        None => put(out, &NoData::new()),
        Some(columns) => row_description(out, columns, formats),
    }
}

/// What the client sees for a type that was never settled: text, as in PostgreSQL.
fn settled(data_type: DataType) -> DataType {
    if data_type == DataType::Unknown {
        DataType::Text
    } else {
        data_type
    }
}

/// A DataRow, written in place: the codec's own message would copy every value twice.
pub fn data_row(
    out: &mut BytesMut,
    columns: &[Column],
    formats: &Formats,
    row: &[Value],
) -> Result<()> {
    if row.len() != columns.len() {
        return Err(Error::internal(format!(
            "row of {} values for {} columns",
            row.len(),
            columns.len()
        )));
    }
    let count = i16::try_from(row.len())
        .map_err(|_| Error::new("54011", "more than 32767 result columns"))?;
    out.put_u8(MESSAGE_TYPE_BYTE_DATA_ROW);
    let length_at = out.len();
    out.put_i32(0);
    out.put_i16(count);
    for (n, value) in row.iter().enumerate() {
        if matches!(value, Value::Null) {
            out.put_i32(-1);
            continue;
        }
        let value_at = out.len();
        out.put_i32(0);
        format::encode(out, value, formats.binary(n));
        patch(out, value_at, out.len() - value_at - 4)?;
    }
    patch(out, length_at, out.len() - length_at)
}

fn patch(out: &mut BytesMut, at: usize, length: usize) -> Result<()> {
    let length = i32::try_from(length)
        .map_err(|_| Error::new("54000", "a result row is longer than 2 GiB"))?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}
