"""Sends German orders to another sink, in a group for each country, and hides e-mail addresses."""

from rowmill import Transform, exported


class Route(Transform):
    tables = ["shop.orders"]
    columns = ["country", "email"]
    sinks = ["europe"]

    def batch(self, batch):
        batch.keep(batch.all)
        batch.keep(batch.where("country = 'DE'"), sink="europe", group="DE")
        batch.replace(batch.all, "email", "hidden")


WitWorld = exported(Route)
