"""Writes messages by recipes, and keeps rows, each by a condition. The case `sdk/cases/recipes` has the results that
the SDKs of all languages must give."""

from rowmill import Transform, exported, recipe


class Recipes(Transform):
    tables = ["shop.orders"]

    def setup(self, settings):
        self.paid = recipe(
            {"event": "order_paid", "id": "{id}", "sum": "{price * quantity}"},
            group="customer-{customer}",
            deduplication_id="paid-{id}",
            attributes={"event": "order_paid", "status": "{status}"},
        )
        self.line = recipe(
            {"order": "{id}", "line": "{item_number()}", "sku": "{item()->'$.sku'}"},
            group="order-{id}",
            for_each="lines",
        )
        self.deletion = recipe(
            {
                "*": "{old_row_except(email, price)}",
                "cost": "{number(price)}",
                "day": "{date_format(created_at, '%d.%m.%Y')}",
            }
        )

    def batch(self, batch):
        batch.write(self.paid, batch.where("changed_to(status, 'paid')"))
        batch.write(self.line, batch.of("insert").where("lines is not null"), sink="lines")
        batch.write(self.deletion, batch.where("old.status = 'paid'").of("delete"))
        batch.keep(batch.where("email like '%@example.com' or price > quantity * 100"))


WitWorld = exported(Recipes)
