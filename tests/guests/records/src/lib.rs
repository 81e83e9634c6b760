//! The filter of the SDKs' examples over typed records, for the benchmark: why rows cross in packed batches.

wit_bindgen::generate!({ path: "wit", world: "records" });

struct Records;

impl Guest for Records {
    fn filter(changes: Vec<Change>, status: u32) -> Vec<u32> {
        let is_paid = |image: &Option<Vec<Value>>| {
            let value = image.as_ref().and_then(|image| image.get(status as usize));
            matches!(value, Some(Value::Text(text)) if text == "paid")
        };
        let became_paid = |change: &Change| is_paid(&change.after) && !is_paid(&change.before);
        (0..).zip(&changes).filter(|(_, change)| became_paid(change)).map(|(row, _)| row).collect()
    }
}

export!(Records);
