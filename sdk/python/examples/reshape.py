"""Makes a small message of each change of an order, in a group for each customer."""

from rowmill import Transform, exported, part, recipe


class Reshape(Transform):
    tables = ["shop.orders"]

    def setup(self, settings):
        group = ["customer-", part.column("customer")]
        fields = ("id", "customer", "status", "total", "email")
        self.change = recipe({name: part.column(name) for name in fields}, group)
        self.deletion = recipe({"id": part.column("id"), "deleted": part.constant(True)}, group)

    def batch(self, batch):
        batch.write(self.change, batch.of("insert", "update"))
        batch.write(self.deletion, batch.of("delete"))


WitWorld = exported(Reshape)
