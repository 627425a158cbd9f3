//! The last rejection of a certificate that names a thing, in the devices table under the thing's name.
//!
//! Operators know a device by its name, but the key of its certificate's record is the certificate's id. This item
//! leads from one to the other. It says nothing about the thing's other certificates: anyone with a certificate of a
//! registered CA can have it name the thing.

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use gatehouse::store::item::{number, string};
use gatehouse::{Failure, TableError, ThingName, Timestamp, VersionedTable};

use crate::event::Registration;
use crate::rejection::Rejection;

/// Records a rejection, unless a later one is recorded.
pub(crate) async fn record(
    table: &VersionedTable,
    thing: &ThingName,
    ids: &Registration,
    rejection: &Rejection,
    event_id: &str,
    now: Timestamp,
) -> Result<(), Failure> {
    let Rejection { code, why, status } = rejection;
    let put = table
        .client()
        .put_item()
        .table_name(table.name())
        .item("id", string(format!("thing#{thing}")))
        .item("part", string("rejection"))
        .item("certificateId", string(ids.certificate.as_str()))
        .item("caCertificateId", string(ids.ca.as_str()))
        .item("reason", string(code))
        .item("why", string(why))
        .item("refusedStatus", string(status.as_str()))
        .item("eventId", string(event_id))
        .item("rejectedAt", number(now.millis()))
        .condition_expression("attribute_not_exists(id) OR rejectedAt <= :now")
        .expression_attribute_values(":now", number(now.millis()));
    match put.send().await {
        Ok(_) => Ok(()),
        Err(error) if error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception) => {
            Ok(())
        }
        Err(error) => Err(TableError::Put(table.name().to_owned(), error.into()).into()),
    }
}
