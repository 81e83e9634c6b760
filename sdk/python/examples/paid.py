"""Makes a message of each order that became paid."""

from rowmill import Transform, exported, recipe


class Paid(Transform):
    tables = ["shop.orders"]
    columns = ["id", "customer", "status", "total"]
    sinks = ["order-management"]
    paid = recipe(
        {"event": "order_paid", "order": "{id}", "customer": "{customer}", "total": "{total}"},
        group="customer-{customer}",
        deduplication_id="paid-{id}",
        attributes={"event": "order_paid"},
    )

    def batch(self, batch):
        batch.write(self.paid, batch.where("changed_to(status, 'paid')"), sink="order-management")


WitWorld = exported(Paid)
