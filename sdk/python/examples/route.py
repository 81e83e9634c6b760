"""Sends German orders to another sink, in a group for each country, and hides e-mail addresses."""

from rowmill import AFTER, Transform, equal, exported


class Route(Transform):
    tables = ["shop.orders"]

    def batch(self, batch):
        german = batch.where(country=equal("DE"))
        batch.keep(german, sink="europe", group="DE")
        batch.keep(batch.but(german))
        addresses = zip(batch.rows, batch.texts("email", AFTER))
        batch.set([row for row, email in addresses if email is not None], "email", "hidden")


WitWorld = exported(Route)
