"""Makes a message of each item of a new order, in a group for each order."""

from rowmill import Transform, exported, recipe


class Split(Transform):
    tables = ["shop.orders"]
    columns = ["id", "lines"]
    line = recipe(
        {
            "order": "{id}",
            "line": "{item_number()}",
            "sku": "{item()->'$.sku'}",
            "quantity": "{item()->'$.quantity'}",
        },
        group="order-{id}",
        for_each="lines",
    )

    def batch(self, batch):
        batch.write(self.line, batch.of("insert"))


WitWorld = exported(Split)
