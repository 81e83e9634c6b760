"""Keeps orders that became paid; drops all other changes of orders."""

from rowmill import Transform, changed_to, exported


class Filter(Transform):
    tables = ["shop.orders"]
    columns = ["status"]

    def batch(self, batch):
        batch.keep(batch.where(status=changed_to("paid")))


WitWorld = exported(Filter)
