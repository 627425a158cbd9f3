//! Keeps every reading in DynamoDB.
