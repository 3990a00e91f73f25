diff plan-degrees.plan plan-degrees.plan
