"""Makes a message of each new or changed line of an order: a column is renamed, one left out, and two are computed."""

from rowmill import Transform, exported, recipe


class Flatten(Transform):
    tables = ["shop.lines"]
    line = recipe(
        {
            "*": "{row_except(price, note)}",
            "unit_price": "{price}",
            "sum": "{price * quantity}",
            "day": "{date_format(created_at, '%Y-%m-%d')}",
        }
    )

    def batch(self, batch):
        batch.write(self.line, batch.of("insert", "update"))


WitWorld = exported(Flatten)
