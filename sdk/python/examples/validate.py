"""Keeps orders whose total is not negative; the others fail. It asks once for a retry."""

from rowmill import Retry, Transform, exported


class Validate(Transform):
    tables = ["shop.orders"]
    columns = ["id", "email", "total"]
    has_rates = False

    def row(self, row):
        if row.operation != "delete":
            total = row.decimal("total")
            if total is not None and total < 0:
                row.fail(f"order {row.integer('id')}: the total {total:f} is negative")
                return
        if not self.has_rates and row.text("email") == "later@example.com":
            self.has_rates = True
            raise Retry("the rates are not there yet")
        row.keep()


WitWorld = exported(Validate)
