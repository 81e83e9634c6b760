"""Makes a small message of each change of an order, in a group for each customer."""

from rowmill import Transform, exported, recipe


class Reshape(Transform):
    tables = ["shop.orders"]
    change = recipe(
        {"id": "{id}", "customer": "{customer}", "status": "{status}", "total": "{total}", "email": "{email}"},
        group="customer-{customer}",
    )
    deletion = recipe({"id": "{id}", "deleted": True}, group="customer-{customer}")

    def batch(self, batch):
        batch.write(self.change, batch.of("insert", "update"))
        batch.write(self.deletion, batch.of("delete"))


WitWorld = exported(Reshape)
