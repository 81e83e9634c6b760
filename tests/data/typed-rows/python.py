"""Keeps orders that became paid, by typed rows."""

from decimal import Decimal

from rowmill import Row, Transform, exported
from rows import Orders, OrdersColumns, OrdersStatus

PAID: OrdersStatus = "paid"


class Filter(Transform):
    tables = [Orders.TABLE]

    def row(self, row: Row) -> None:
        order = Orders(row)
        status = order.status
        if status == "new":
            assert (order.id, order.customer, order.rating, order.total) == (1, 7, None, Decimal("9.50"))
        image, before = row.before, order.before
        if image is not None and before is not None and image.has(OrdersColumns.status) and before.status == status:
            return
        if status == PAID and row.changed_to(OrdersColumns.status, PAID):
            row.keep()


WitWorld = exported(Filter)
